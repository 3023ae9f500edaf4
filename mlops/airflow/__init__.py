"""What runs inside Airflow. Work in a pod never imports it.

`authoring` is what DAG files import, `pods` handles pods, `administration` sets a running Airflow up and looks after
it, `internals` touches Airflow's private parts. `platform` reads what the chart mounts, Airflow loads `plugin`.
"""
