"""What runs in the container: a request's bytes come in, scores go out as JSON.

SageMaker's toolkit calls `model_fn` once when a worker starts and `transform_fn` for every
request. The README beside this file has the table of settings and the table of bad inputs.
"""

import contextlib
import sys
import traceback

from helpers.endpoint.wire import JSON, RequestError, check_headers, read, write
from helpers.endpoint.worker import Scorer, setting

with contextlib.suppress(ImportError):
    # The toolkit decodes JSON bodies before it calls us, and a body that is not UTF-8 then
    # ends in a traceback. With no type listed it hands over the bytes, which we decode.
    from sagemaker_inference import content_types

    content_types.UTF8_TYPES.clear()


def model_fn(model_dir: str) -> Scorer:
    """A line to the process that holds the model, or the error that it met as it loaded it."""
    return Scorer(model_dir)


def transform_fn(model: Scorer, body, content_type, accept, context=None):
    """One request: scores in the form in which they were asked for, or an error as JSON."""
    try:
        check_headers(content_type, accept)
        request = read(body, setting("RERANKER_MAX_PAIRS", 2000), model.max_length)
        answer = write(request, model.ask(request.pairs, count=request.form == "documents"))
    except Exception as error:
        if not isinstance(error, RequestError):
            print(traceback.format_exc(), file=sys.stderr, flush=True)  # for the log alone
            error = RequestError(500, "the model failed on this request; the log says why.")
        if context is None:  # a container whose toolkit passes no context
            raise error from None
        # Raising would do too, but the toolkit adds the traceback to whatever is raised.
        phrase = "client error" if error.status < 500 else "error"
        context.set_response_status(error.status, phrase)
        answer = str(error)
    # SageMaker's own toolkit would label the answer with whatever Accept said; the Hugging Face
    # toolkit, which would not take a tuple, is content with the text.
    return answer if "sagemaker_huggingface_inference_toolkit" in sys.modules else (answer, JSON)
