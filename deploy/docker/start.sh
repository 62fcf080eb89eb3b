#!/bin/bash
# Starts the model server in its container: writes the files that its flags name, then replaces itself by the server.
# .env.example explains the variables.
set -eu
files=${TMPDIR:-/tmp}

cat > "$files/batching.config" <<END
max_execution_batch_size { value: $BATCH_FACES }
batch_timeout_micros { value: $BATCH_WAIT_MICROS }
num_batch_threads { value: $BATCH_THREADS }
max_enqueued_batches { value: $BATCH_QUEUE }
# A request larger than a batch is split, up to this size.
enable_large_batch_splitting { value: true }
max_batch_size { value: $REQUEST_FACES }
END
echo 'prometheus_config { enable: true }' > "$files/monitoring.config"

exec tensorflow_model_server --batching_parameters_file="$files/batching.config" \
  --monitoring_config_file="$files/monitoring.config" "$@"
