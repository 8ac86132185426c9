"""What several tests share: small models, documents and runs, and the faults that are planted in them."""
