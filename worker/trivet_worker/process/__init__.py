"""The worker process: its start and stop, its Celery consumer, what its messages may say."""
