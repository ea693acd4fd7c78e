"""Export to `.tflite`."""
