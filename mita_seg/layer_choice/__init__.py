"""Which layers of an encoder to give MiTA attention: what each costs and saves."""
