"""What opens each form of a model: a name for people, without the libraries that write the form."""

OPENED_BY = {
    "hf": "transformers, vLLM and others",
    "gguf": "llama.cpp, Ollama and LM Studio",
    "onnx": "onnxruntime",
    "mlx": "mlx-lm on Apple's chips",
}
