"""What a training writes down: its folder, metrics, curves and events. None of it decides a weight."""
