"""What diffusers' samplers make of fixed predictions and noise, step by step: schedules.json.

    python make_schedules.py            # with torch and diffusers; writes beside itself
"""
import json, math, os
import torch
import diffusers
from diffusers.schedulers import scheduling_dpmsolver_multistep, scheduling_euler_ancestral_discrete, scheduling_lcm

N = 4
COUNT = 0


def values(seed):
    return [math.sin(1.7 * seed + 0.9 * i + 0.3 * seed * i) for i in range(N)]


def fresh(shape, **_):
    """The noise of the k-th request."""
    global COUNT
    COUNT += 1
    return torch.tensor(values(100 + COUNT)).reshape(shape)


for module in (scheduling_dpmsolver_multistep, scheduling_euler_ancestral_discrete, scheduling_lcm):
    module.randn_tensor = fresh

SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CASES = []
for spacing in ("leading", "trailing", "linspace"):
    CASES += [("DDIMScheduler", dict(timestep_spacing=spacing, steps_offset=1, clip_sample=False, set_alpha_to_one=False)),
              ("EulerDiscreteScheduler", dict(timestep_spacing=spacing, steps_offset=1)),
              ("EulerAncestralDiscreteScheduler", dict(timestep_spacing=spacing, steps_offset=1)),
              ("DPMSolverMultistepScheduler", dict(timestep_spacing=spacing, steps_offset=1)),
              ("PNDMScheduler", dict(timestep_spacing=spacing, steps_offset=1, skip_prk_steps=True))]
CASES += [
    ("DDIMScheduler", dict(prediction_type="v_prediction", clip_sample=True, set_alpha_to_one=True)),
    ("DDIMScheduler", dict(prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing")),
    ("DDIMScheduler", dict(prediction_type="sample", clip_sample=False, beta_schedule="linear")),
    ("DDIMScheduler", dict(clip_sample=False, beta_schedule="squaredcos_cap_v2")),
    ("PNDMScheduler", dict(prediction_type="v_prediction", skip_prk_steps=True, set_alpha_to_one=True)),
    ("EulerDiscreteScheduler", dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")),
    ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)),
    ("EulerDiscreteScheduler", dict(final_sigmas_type="sigma_min")),
    ("EulerAncestralDiscreteScheduler", dict(prediction_type="v_prediction")),
    ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
    ("DPMSolverMultistepScheduler", dict(prediction_type="v_prediction", solver_type="heun")),
    ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++", solver_type="heun")),
    ("DPMSolverMultistepScheduler", dict(solver_order=1)),
    ("DPMSolverMultistepScheduler", dict(final_sigmas_type="sigma_min", lower_order_final=False)),
    ("LCMScheduler", dict(original_inference_steps=50)),
    ("LCMScheduler", dict(original_inference_steps=20, prediction_type="v_prediction", clip_sample=True)),
]


def run(name, settings, steps):
    global COUNT
    COUNT = 0
    scheduler = getattr(diffusers, name)(**{**SCALED, **settings})
    scheduler.set_timesteps(steps)
    x = torch.tensor(values(0)).reshape(1, 1, 1, N) * float(scheduler.init_noise_sigma)
    out = []
    for at, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        predicted = 0.4 * scaled + 0.6 * torch.tensor(values(at + 1)).reshape(1, 1, 1, N)
        x = scheduler.step(predicted, t, x).prev_sample
        out.append([float(v) for v in x.flatten()])
    config = {k: v for k, v in dict(scheduler.config).items() if v not in (float("inf"), -float("inf"))}
    config["_class_name"] = name
    return dict(config=config, steps=steps, initial=float(scheduler.init_noise_sigma),
                times=[float(t) for t in scheduler.timesteps], x=out)


if __name__ == "__main__":
    cases = [run(name, settings, steps) for name, settings in CASES for steps in (1, 7)]
    cases += [run("DPMSolverMultistepScheduler", {}, 20), run("PNDMScheduler", dict(skip_prk_steps=True), 20)]
    defaults = {}
    for case in cases:                                     # only what differs from the class's own defaults
        cls = case["config"]["_class_name"]
        if cls not in defaults:
            defaults[cls] = dict(getattr(diffusers, cls)().config)
        own = defaults[cls]
        case["config"] = {k: v for k, v in case["config"].items() if k != "_use_default_values" and (k == "_class_name" or own.get(k) != v)}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedules.json")
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(json.loads(json.dumps(c), parse_float=lambda s: round(float(s), 7))) for c in cases) + "\n]\n")
