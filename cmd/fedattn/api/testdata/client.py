"""Talks to a server with OpenAI's own client: client.py BASE-URL KEY"""
import sys

import openai

base, key = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
one = client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": "one"}])
two = client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": "two"}], stream=True)
text = "".join(chunk.choices[0].delta.content or "" for chunk in two if chunk.choices)
code = "none"
try:
    openai.OpenAI(base_url=base, api_key="wrong", max_retries=0).models.list()
except openai.AuthenticationError as e:
    code = e.code
print(one.choices[0].message.content, text, client.models.list().data[0].id, code)
