"""What the user asks for: settings, batch and schedule arithmetic, the DeepSpeed JSON. No torch here."""
