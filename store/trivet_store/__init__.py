"""The SQL store: the truth about every job, attempt and cent.

`schema` has the tables, `migrations` their history. `database` opens the database and has the idioms that all statements
share; `jobs`, `ledger`, `cluster` and `retention` change rows, `reports` reads them for people. Functions take a
connection whose transaction the caller opened.
"""
