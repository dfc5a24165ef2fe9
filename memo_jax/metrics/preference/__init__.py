"""Which of two videos people prefer: pairs on a page side by side, and what the votes say."""
