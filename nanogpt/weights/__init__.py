"""Every folder and file that holds weights: ours, Hugging Face's and nanoGPT's, whole or refused."""
