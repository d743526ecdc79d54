"""The domain rules of accounts, files, mail, chat and administration, over the table interface."""
