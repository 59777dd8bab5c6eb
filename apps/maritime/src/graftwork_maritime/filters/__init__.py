"""What refuses a dialogue: the paper's 27 filters, our own, and how they are counted."""
