"""What a training takes, before it begins: memory and work by arithmetic, speed by real steps."""
