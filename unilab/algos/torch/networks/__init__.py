"""Networks and the distributions of actions over their outputs, for all algorithms.

A network is any ``torch.nn.Module`` that maps rows [B, inputs] to rows [B, outputs]. Settings describe it
(``unilab.run.config.Description``), ``build`` makes it, and ``distributions`` says what its outputs mean as actions.
"""
