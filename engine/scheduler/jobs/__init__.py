"""Jobs as people and plugins give them: checked, kept, listed, and reconciled with what is installed."""
