"""Who collects for SAC and TD3: a collector process or workers."""
