"""A site file in which every key of the schema stands once, and two smaller ones."""

FULL = """\
name: survey
address: gateway.example.org:443
api_address: 127.0.0.1:9001
prefix: /services/sciplat-gateway
state: state
tls: {cert: tls/cert.pem, key: /etc/site/key.pem}
backend: slurm
slurm:
  launcher: /opt/site/bin/sciplat-gateway-launcher
  flags: [nice, exclusive]
  commands: /opt/slurm/bin
  staging: "{home}/.sciplat/clusters"
interface: eth0
authenticators:
  - {type: token-file, path: tokens.json}
  - {type: jupyterhub, api_url: "http://127.0.0.1:8081/hub/api", service: sciplat-gateway}
groups: {source: file, file: groups.yaml}
admins: {users: [alice], groups: [operators]}
profiles:
  default:
  large:
    groups: [physics]
    cores: 2
    max_cores: 8
    memory: 8 GiB
    max_memory: 64 GiB
    max_workers: 100
    walltime: 2 h
    max_walltime: 1 d
    gpus: 1
    gpu_type: h200
    scheduler_cores: 2
    scheduler_memory: 4 GiB
    environment: /opt/site/env
    kernels: /opt/site/kernels
    setup: ["module load python/3.11"]
    partition: debug
    scheduler_partition: steady
    qos: normal
    account: atlas
    constraint: "gpu&intel"
    reservation: night
    flags: ["--nice=100"]
    variables: {OMP_NUM_THREADS: "1"}
quotas:
  default: {clusters: 2, workers: 20, cores: 40, memory: 64 GiB, gpus: 2, core_hours: 1000, period: week}
  users: {alice: {clusters: 4}}
  groups: {physics: {cores: 400}}
limits: {idle: 1 h, lifetime: 3 d, start: 12 h, logs: 7 d}
ledger: postgresql+psycopg://gateway@db.example.org/ledger
on_stop: keep
heartbeat: 2 s
"""
