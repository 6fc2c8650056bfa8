"""Measures a policy so that runs can be compared whatever their loss or beta."""
