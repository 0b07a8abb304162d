"""How good a model is: figures on whole splits, samples with a verdict, simple models to compare with."""
