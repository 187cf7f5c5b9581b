"""A DAG (Airflow 2) with a task per runbook; a task that is started twice for a day gets the run of that day.

Each event of a run is a line of the task's log.
"""

from datetime import datetime

from airflow import DAG
from airflow.operators.bash import BashOperator

RUN = "cd /srv/lepton && lepton run {runbook} --key {runbook}-{{{{ ds }}}} --events --timeout 1800 --retries 1"

with DAG(
    "lepton",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 0},  # a run that failed answers its key too; --retries tries again
):
    drift = BashOperator(task_id="drift", bash_command=RUN.format(runbook="drift-watch"))
    health = BashOperator(task_id="health", bash_command=RUN.format(runbook="service-health"))
    drift >> health
