"""Run time: opens and runs engines of OpenVINO; loads no graph library."""
