"""Networks of SAC and TD3, and the recording of their updates on CUDA."""
