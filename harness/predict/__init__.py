"""What will happen: the plan, ceilings, throughput, ranking, memory and bottleneck."""
