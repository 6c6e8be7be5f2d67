"""A trained model behind HTTP: `w3ray serve`, an application of Ray Serve.

`settings.py` says what can be set, `requests.py` turns a request into a video, `decoders.py` reads it in processes that
may be ended, `application.py` scores and answers, `meter.py` counts, `start.py` starts and stops it all.
"""
