"""Slopes: the derivative of a bounded loss by every coefficient of a recipe, by one backward pass.

One pass gives the derivative by every merged tensor; its product with what a coefficient changes there is
the derivative by that coefficient, whatever it is shared with. Tensors are taken one by one as their
gradients appear, so memory is the model, its activations and one tensor.
"""
