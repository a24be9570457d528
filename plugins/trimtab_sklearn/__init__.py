"""What trimtab takes from scikit-learn: its digits, as a demo stream whose scanner is replaced half-way."""
