"""All that wants a trained model, as one list of jobs for one card."""
