"""What follows from settings: batch, schedule, DeepSpeed JSON, memory."""
