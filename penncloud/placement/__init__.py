"""Which tablet holds a row, and which server holds a tablet. Pure."""
