"""Networks of SAC and TD3, their flat parameters and their passes."""
