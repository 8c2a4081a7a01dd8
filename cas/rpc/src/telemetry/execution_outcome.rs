//! Outcome of an execution, as metrics count it.

use bitzel_proto::reapi::ExecuteResponse;

/// Outcome of an execution, as the label `outcome` of metrics: `succeeded`, `failed` (the command's exit code) or
/// `error` (anything else). Server and worker count by the same names.
pub fn execution_outcome(response: &ExecuteResponse) -> &'static str {
    let is_ok = response.status.as_ref().is_none_or(|status| status.code == 0);
    match &response.result {
        Some(result) if is_ok && result.exit_code == 0 => "succeeded",
        Some(_) if is_ok => "failed",
        _ => "error",
    }
}
