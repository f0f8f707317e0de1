"""What other trainers call our keys: `lr` is `train.learning_rate`. Suggestions only; no such name is accepted.

A name is looked up without its section, in lower case, with _ for -. A target is a key, or a key with the value that
the name stands for; the words behind it say what differs here.
"""

from typing import NamedTuple


class OtherName(NamedTuple):
    """Our keys for a name, the likeliest first, and a remark."""

    targets: tuple[str, ...]
    note: str = ""


_TABLE: tuple[tuple[str, str, str], ...] = (
    # names | targets | note
    ("lr learning_rate max_lr peak_lr base_lr lr_peak", "train.learning_rate critic_stage.learning_rate", ""),
    ("min_lr lr_min min_lr_ratio min_lr_rate", "train.min_learning_rate_frac", "a share of the peak"),
    (
        "lr_scheduler lr_scheduler_type scheduler lr_decay_style decay_lr",
        "train.warmup_frac train.min_learning_rate_frac",
        "the schedule is a linear warm-up, then a cosine",
    ),
    ("warmup warmup_steps warmup_ratio warmup_iters num_warmup_steps", "train.warmup_frac", "a share of the steps"),
    (
        "batch_size global_batch_size train_batch_size batch bs bsz",
        "train.batch_rows train.batch_sequences",
        "all ranks together, in rows or in packed sequences",
    ),
    (
        "micro_batch_size mbs device_batch_size per_device_batch_size per_device_train_batch_size "
        "per_gpu_train_batch_size train_micro_batch_size_per_gpu",
        "train.micro_batch_tokens train.batch_rows",
        "a forward is counted in tokens, a step in rows of all ranks",
    ),
    (
        "gradient_accumulation_steps gradient_accumulation grad_accum grad_accumulation grad_accum_steps "
        "accumulation_steps accumulate_grad_batches",
        "train.batch_rows train.micro_batch_tokens",
        "a step accumulates as many micro-batches as its rows fill",
    ),
    (
        "epochs epoch num_epochs n_epochs num_train_epochs max_epochs",
        "train.epochs train.max_steps",
        "the shorter of the two ends the training",
    ),
    (
        "steps max_iters iters iterations num_steps n_steps train_steps train_iters max_train_steps total_steps "
        "num_iterations",
        "train.max_steps critic_stage.max_steps",
        "",
    ),
    (
        "max_length max_len seq_len seq_length sequence_length max_seq_len max_seq_length max_sequence_length "
        "context_length context_len block_size cutoff_len n_ctx",
        "data.max_tokens train.micro_batch_tokens",
        "a micro-batch holds at least the longest row",
    ),
    ("dtype precision torch_dtype mixed_precision amp", "train.dtype", "float32 or bfloat16"),
    ("fp16 float16 half", "train.dtype", "float32 or bfloat16; there is no float16"),
    ("bf16 bfloat16", "train.dtype=bfloat16", ""),
    ("fp32 float32", "train.dtype=float32", ""),
    (
        "seed random_seed rng_seed manual_seed random_state",
        "seed train.sampling.seed critic_stage.sampling.seed",
        "",
    ),
    ("data_seed shuffle_seed", "train.sampling.seed critic_stage.sampling.seed", ""),
    (
        "model model_name model_name_or_path model_path model_dir model_id base_model init_from "
        "pretrained_model_name_or_path",
        "model.path",
        "`wmtp import` makes such a directory of a Hugging Face model",
    ),
    ("tokenizer tokenizer_name tokenizer_name_or_path tokenizer_path", "tokenizer.path", ""),
    ("ref_model reference_model ref_model_path reference", "reference.path", ""),
    (
        "output_dir out_dir save_dir output out workdir work_dir results_dir default_root_dir log_dir logging_dir "
        "exp_dir",
        "storage_root run_name",
        "a run is written to storage_root/runs/run_name",
    ),
    ("exp_name experiment_name wandb_name run_id name job_name", "run_name tracking.experiment", ""),
    (
        "dataset data data_path dataset_name dataset_path dataset_dir data_dir data_file train_data train_path "
        "train_files",
        "data.train_file",
        "",
    ),
    ("valid_data val_data val_file eval_file validation_file eval_dataset", "data.valid_file", ""),
    (
        "gradient_checkpointing gradient_checkpoint grad_checkpoint use_gradient_checkpointing activation_checkpoint "
        "activation_recompute recompute",
        "model.activation_checkpointing",
        "",
    ),
    (
        "lora use_lora peft use_peft adapter lora_r lora_rank lora_alpha lora_dropout lora_target lora_targets "
        "lora_target_modules target_modules",
        "model.lora",
        "a section of rank, alpha, dropout and targets",
    ),
    (
        "num_gpus n_gpus n_gpu gpus ngpus nproc nproc_per_node world_size num_processes devices num_workers workers "
        "dp_size data_parallel_size",
        "train.num_workers cluster.gpus_per_worker",
        "",
    ),
    ("num_cpus cpus n_cpus", "cluster.num_cpus cluster.cpus_per_worker", ""),
    ("fsdp fsdp2 zero_stage zero3 deepspeed", "train.parallel=fsdp2", ""),
    ("ddp strategy distributed_backend", "train.parallel", "ddp or fsdp2"),
    ("accelerator use_cpu no_cuda cpu", "train.device", ""),
    (
        "wandb use_wandb report_to logger loggers log_with tensorboard use_tensorboard trackio comet",
        "tracking.sinks",
        "a list of mlflow, tensorboard, wandb, trackio; metrics.jsonl is written always",
    ),
    ("wandb_project project project_name", "tracking.experiment", "the experiment of MLflow, the project elsewhere"),
    ("wandb_entity entity", "tracking.sinks", "W&B reads WANDB_ENTITY from the environment"),
    (
        "wandb_mode wandb_offline",
        "tracking.wandb_mode",
        "online or offline",
    ),
    ("mlflow use_mlflow", "tracking.mlflow tracking.mlflow_uri", ""),
    ("tracking_uri mlflow_tracking_uri mlflow_url", "tracking.mlflow_uri", ""),
    ("save_steps save_every save_interval save_freq checkpoint_interval ckpt_every", "train.checkpoint_every", ""),
    ("save_total_limit keep_last max_checkpoints max_ckpt_to_keep", "train.keep_checkpoints", ""),
    ("resume resume_from_checkpoint auto_resume", "run_name", "give it with the flag --resume"),
    ("wd weight_decay l2", "train.weight_decay", ""),
    ("grad_clip clip_grad clip_grad_norm gradient_clip_val gradient_clipping max_norm", "train.max_grad_norm", ""),
    ("betas adam_beta1 adam_beta2 beta1 beta2", "train.adam_betas", "a list of two"),
    ("temp", "evaluation.temperature weighting.beta rho1.temperature", ""),
    ("max_gen_len max_tokens_to_generate", "evaluation.max_new_tokens", ""),
    ("n_samples_per_task n_samples_per_problem num_return_sequences", "evaluation.num_samples", ""),
    ("pass_at_k passk", "evaluation.k", ""),
    ("gae_lambda lam lambda", "weighting.td_lambda critic.value_lambda", ""),
    ("vf_coef value_loss_coef critic_coef", "train.value_coef", ""),
    ("cliprange_value vf_clip value_clip_range", "critic.value_clip", ""),
    ("discount discount_factor", "weighting.gamma", ""),
)
OTHER_NAMES = {
    name: OtherName(tuple(targets.split()), note) for names, targets, note in _TABLE for name in names.split()
}
_SECTIONS = ("wandb", "tensorboard", "trackio", "deepspeed", "fsdp", "lora", "peft", "mlflow")


def other_name(key: str) -> OtherName | None:
    """Look a key up by its last part, else by its last two, else by its first: train.lr by lr, wandb.mode by wandb."""
    parts = [part.lower().replace("-", "_") for part in key.lstrip("-").split(".")]
    found = OTHER_NAMES.get(parts[-1]) or OTHER_NAMES.get("_".join(parts[-2:]))
    return OTHER_NAMES[parts[0]] if found is None and parts[0] in _SECTIONS else found
