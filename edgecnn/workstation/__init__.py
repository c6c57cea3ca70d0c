"""Where models are made; TensorFlow lives here and nowhere else."""
