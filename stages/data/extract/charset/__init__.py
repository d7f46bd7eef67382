"""Character encodings by the Encoding Standard (encoding.spec.whatwg.org)."""
