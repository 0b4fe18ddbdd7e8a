"""Networks whose derivatives of every order are exact under ``vmap``."""
