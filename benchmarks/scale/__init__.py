"""What several GPUs bring: throughput, memory, and the adapter that one GPU would have trained."""
