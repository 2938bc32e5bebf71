"""One run or several, from settings to scores."""
