"""From raw video to stored clips: the steps, each usable alone, and what runs them over folders."""
