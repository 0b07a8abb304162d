"""What every part of a run may know: options, places, clock, and the journal of what happened."""
