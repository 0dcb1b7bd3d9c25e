"""The SQL store: the truth about every job, attempt and cent.

`engine` opens the database, `schema` has its tables, `migrations` its history. Each other module is one concern and
takes a connection whose transaction the caller opened: `enqueue`, `dispatching`, `taking`, `finishing`, `rescuing`,
`leases`, `registry`, `batches`, `jobs`, `costs`.
"""
