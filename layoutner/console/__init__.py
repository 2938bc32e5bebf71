"""What all commands share: their arguments, what they show, and how their process ends."""
