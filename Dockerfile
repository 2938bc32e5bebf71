# layoutner for NVIDIA GPUs. CI does not build this image: tests check that what it copies exists and makes a package.
#
#   docker build -t layoutner .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" layoutner train --config funsd-layoutlm-base --data.train data/funsd
#   docker run --rm --gpus all -p 127.0.0.1:8000:8000 -v "$PWD:/work" layoutner serve models/funsd --host 0.0.0.0
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" --entrypoint deepspeed layoutner --module layoutner train ...
#
# The user in the container has the id 1000: with another id of your own, build with --build-arg USER_ID=$(id -u), so that
# it may write to /work.

# With nvcc and a C++ compiler. Nothing that ships needs them, but DeepSpeed compiles its CPU Adam and its NVMe reader
# when a preset of your own asks for them (offload to nvme, ZenFlow, offload_optimizer with a ratio below 1), and the
# CUDA of the image must then be that of torch.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG USER_ID=1000

# libaio is for the NVMe reader, tesseract for data.format = ocr.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3.12 python3.12-dev python3.12-venv build-essential libaio-dev tesseract-ocr \
    && rm -rf /var/lib/apt/lists/*

RUN python3.12 -m venv /opt/layoutner
ENV PATH=/opt/layoutner/bin:$PATH
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" 'torch>=2.9,<2.14'

COPY pyproject.toml README.md LICENSE /src/
COPY layoutner /src/layoutner
COPY ds_configs /src/ds_configs
COPY slurm /src/slurm
RUN pip install --no-cache-dir '/src[dashboard,hub,ocr,serve,tensorboard]'

# Ubuntu's own user has the id 1000.
RUN (userdel --remove ubuntu 2>/dev/null || true) && useradd --create-home --uid "$USER_ID" layoutner
USER layoutner
WORKDIR /work
ENTRYPOINT ["layoutner"]
CMD ["--help"]
