"""What bench.training runs in processes of their own: each trainer's steps, and their race. It keeps none of theirs."""
