"""Parts that families of models are composed of."""
