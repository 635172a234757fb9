"""The HTTP status of every error code. 5xx is for the engine's own faults and for waiting.

A test walks the source: each code that a request can meet stands here.
"""

from __future__ import annotations

from runtime.errors import EXIT_MACHINE, EXIT_MODEL, EXIT_PLAN, EXIT_USAGE, EngineError

#: What the request itself asks for cannot be: its body, its plan, its prompt.
_REQUEST = """
    ambiguous_model backend_unknown bad_model_name bad_model_reference chat_template_budget
    chat_template_failed chat_template_refused chat_template_unsafe conflicting_fields
    constraint_needed embeddings_unsupported
    constraint_failed constraint_unsupported context_exceeded context_too_long invalid_http invalid_json
    no_emulation
    invalid_messages invalid_name invalid_option invalid_plan invalid_request missing_field
    no_energy_meter not_allowed not_overridable op_timing_needed out_of_range
    override_matches_nothing plan_alias plan_bad_key plan_duplicate_key plan_not_yaml plan_tag
    plan_too_deep plan_too_large prompt_empty prompt_too_long requantization_refused
    tensor_type_does_not_fit test_too_long text_invalid text_too_short token_out_of_range
    unknown_backend unknown_field unknown_file unknown_model unknown_model_file unknown_op
    unknown_plan unknown_recipe unknown_scheduler_policy unknown_tensor_type unsupported_field
    vocabularies_differ workload_too_long wrong_type
"""

#: The request is in order, but not with this machine, this model or what is served at present.
_STATE = """
    bad_gguf bad_importance_matrix bad_model_entry bad_model_metadata bundle_busy
    bundle_served_already differs hub_not_permitted importance_matrix_mismatch model_changed model_exists
    model_metadata model_part_missing model_tensor model_unreadable models_differ not_comparable
    not_finished nothing_to_replay out_of_memory output_is_the_model plan_not_compiled
    plan_served_already prompt_differs prompt_needed record_exists run_ambiguous run_finished
    run_not_finished too_many_plans unknown_architecture unsupported_cpu unsupported_source_type
    tensor_type_unknown unsupported_tensor_type vocabulary_invalid vocabulary_missing vocabulary_unsupported
    weight_not_finite weight_out_of_range
"""

#: The engine, or the machine under it, has failed.
_FAULT = """
    backend_invalid
    bad_bundle_plan bandwidth_unknown build_failed bundle_damaged bundle_format bundle_not_found
    compiler_failed compiler_not_found download_damaged engine_argument
    engine_failed engine_failure engine_open_failed execution_failed file_error internal_error
    invalid_work kernel_crashed no_free_pages no_free_slot not_a_bundle not_permitted not_trusted not_writable
    no_temporary_files numeric_error plan_unreadable record_invalid records_damaged scheduler_integrity
    scheduler_policy_broken scheduler_policy_invalid slot_leak page_leak threads_unavailable tokenizer_damaged
    tool_library records_unreadable weights_changed weights_lost worker_failed
"""

#: Waiting may help.
_LATER = "executor_failed loading overloaded records_unwritable shutting_down"

STATUS: dict[str, int] = {
    **dict.fromkeys(_REQUEST.split(), 400),
    **dict.fromkeys(_STATE.split(), 409),
    **dict.fromkeys(_FAULT.split(), 500),
    **dict.fromkeys(_LATER.split(), 503),
    "unauthorized": 401,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "compile_not_allowed": 403,
    "not_found": 404,
    "run_not_found": 404,
    "model_not_found": 404,
    "bundle_not_served": 404,
    "hub_not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "body_too_large": 413,
    "not_json": 415,
    "queue_full": 429,
    "head_too_large": 431,
    "hub_error": 502,
    "hub_unreachable": 502,
    "disk_full": 507,
}

#: By the class of an error, for codes of other packages (backends, policies).
_BY_CLASS = {EXIT_USAGE: 400, EXIT_PLAN: 400, EXIT_MODEL: 409, EXIT_MACHINE: 409}


def status_of(error: EngineError) -> int:
    """The HTTP status of an error."""
    known = STATUS.get(error.code)
    return known if known is not None else _BY_CLASS.get(error.exit_code, 500)
