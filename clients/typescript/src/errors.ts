/** An error that the service returned, or a failure to reach it. */
export class EverthreadError extends Error {
  override readonly name = "EverthreadError";
  /** The HTTP status; 0 if there was no answer. */
  readonly status: number;
  /** The service's stable code, such as `thread_busy`; `connection_lost`, `timeout`, `aborted`, `bad_token` or `bad_stream` from this client. */
  readonly code: string;
  /** The name of the field at fault. */
  readonly param: string | null;
  /** Seconds to wait before the next attempt. */
  readonly retryAfter: number | null;

  constructor(fields: {
    status: number;
    code: string;
    message: string;
    param?: string | null;
    retryAfter?: number | null;
    cause?: unknown;
  }) {
    super(fields.message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.status = fields.status;
    this.code = fields.code;
    this.param = fields.param ?? null;
    this.retryAfter = fields.retryAfter ?? null;
  }

  /** Read the error of a response that is not 2xx. */
  static async from(response: Response): Promise<EverthreadError> {
    const text = await response.text().catch(() => "");
    const { code, message, param } = errorFields(text);
    return new EverthreadError({
      status: response.status,
      code: code ?? `http_${response.status}`,
      message: message ?? `The service answered with status ${response.status}.`,
      param: param ?? null,
      retryAfter: secondsOf(response.headers.get("retry-after")),
    });
  }
}

function errorFields(text: string): { code?: string; message?: string; param?: string } {
  try {
    return (JSON.parse(text) as { error?: object }).error ?? {};
  } catch {
    return {}; // A proxy's page.
  }
}

/** Return the seconds of a `Retry-After` header: a number, or the time until a date. */
function secondsOf(value: string | null): number | null {
  if (value === null) return null;
  const seconds = /^\d+(\.\d+)?$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0, seconds);
}
