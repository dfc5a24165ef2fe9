"""What a data set holds, in numbers and one picture."""
