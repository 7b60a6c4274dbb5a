"""What will happen: what is wrong with a suite here, the plan, ceilings, throughput, ranking, memory and bottleneck."""
