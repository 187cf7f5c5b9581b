"""A DAG (Airflow 2) with a task per runbook; a task that is tried again gets the run that is there.

Each event of a run is a line of the task's log.
"""

from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

RUN = "cd /srv/lepton && /opt/lepton/bin/lepton run {runbook} --key {runbook}-{{{{ ds }}}} --events --timeout 1800"

with DAG(
    "lepton",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(minutes=5)},
):
    drift = BashOperator(task_id="drift", bash_command=RUN.format(runbook="drift-watch"))
    health = BashOperator(task_id="health", bash_command=RUN.format(runbook="service-health"))
    drift >> health
