"""Scorers: from what a model says about a step's batches to the weight of every (token, horizon) pair.

The recipes differ here and nowhere else: they share the training step and use another Scorer. The formulas are in
`wmtp_ray/objective`; here they are put together. It runs no model and starts no actor.

    contract.py     what goes in (MicroBatch), what comes out (StepWeights), and the Scorer between them
    advantages.py   what a token's weight is made from, and whitening over the global batch
    shapes.py       how an advantage becomes a weight
    doubtful_tokens.py  which weights rest on values that an ensemble disagrees about
    controls.py     arms that keep the distribution of the weights and destroy their placement
    scorers.py      Uniform, Advantage, Rho1, and which of them a configuration names
"""
