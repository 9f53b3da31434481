"""mergekit files as papers give them, for the models of a family: the starts of presets are compared with them.

Facts from the authors' scripts and papers. ``base`` is the paper's base model; ``chat`` and ``sea`` play the roles
that ``PRESETS`` says.
"""

from __future__ import annotations

PRESETS: dict[str, tuple[str, dict[str, str], str]] = {  # file -> preset, role -> model, start
    "BioMistral DARE": ("cpt_onto_instruct", {"language": "sea"}, "BioMistral DARE"),
    "BioMistral TIES": ("cpt_onto_instruct", {"language": "sea"}, "BioMistral TIES"),
    "BioMistral SLERP": ("cpt_onto_instruct", {"language": "sea"}, "BioMistral SLERP"),
    "chat vector": ("cpt_x_instruct", {"language": "sea"}, "chat vector"),
    "average": ("cpt_x_instruct", {"language": "sea"}, "uniform"),
    "Model Stock": ("cpt_x_instruct", {"language": "sea"}, "Model Stock"),
    "TIES, half scale": ("cpt_x_instruct", {"language": "sea"}, "TIES 0.5 at half scale"),
    "Breadcrumbs": ("cpt_x_instruct", {"language": "sea"}, "Breadcrumbs 0.9 at half scale"),
    "long to short, 7B": ("long2short", {"long": "chat", "short": "sea"}, "TIES of 1.5B and 7B"),
    "long to short, 32B": ("long2short", {"long": "chat", "short": "sea"}, "TIES of 32B"),
    "AdaR1": ("long2short", {"long": "chat", "short": "sea"}, "AdaR1"),
}
RANDOM = ("BioMistral DARE",)  # mergekit draws other masks

FILES = {
    # github.com/BioMistral/BioMistral, Merges/; the base is Mistral-7B-Instruct
    "BioMistral DARE": """
        models:
          - model: {base}
          - model: {sea}
            parameters: {{density: 0.5, weight: 0.5}}
        merge_method: dare_ties
        base_model: {base}
        parameters: {{int8_mask: true}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "BioMistral TIES": """
        models:
          - model: {base}
          - model: {sea}
            parameters: {{density: 0.5, weight: 0.5}}
        merge_method: ties
        base_model: {base}
        parameters: {{normalize: true}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "BioMistral SLERP": """
        slices:
          - sources: [{{model: {base}, layer_range: [0, 4]}}, {{model: {sea}, layer_range: [0, 4]}}]
        merge_method: slerp
        base_model: {base}
        parameters:
          t:
            - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
            - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
            - {{value: 0.5}}
        dtype: float32
        out_dtype: bfloat16
        """,
    # nekomata-14b-pfn-qfin-inst-merge, and WIDEN's task arithmetic
    "chat vector": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: task_arithmetic
        base_model: {base}
        parameters: {{weight: 1.0}}
        dtype: float32
        out_dtype: bfloat16
        """,
    # what WIDEN is compared with: github.com/yule-BUAA/MergeLLM, README
    "average": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: linear
        parameters: {{weight: 1.0}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "Model Stock": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: model_stock
        base_model: {base}
        dtype: float32
        out_dtype: bfloat16
        """,
    "TIES, half scale": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: ties
        base_model: {base}
        parameters: {{weight: 1.0, density: 0.5, lambda: 0.5, normalize: true}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "Breadcrumbs": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: breadcrumbs
        base_model: {base}
        parameters: {{weight: 1.0, density: 0.9, gamma: 0.05, lambda: 0.5}}
        dtype: float32
        out_dtype: bfloat16
        """,
    # arXiv 2503.20641: k is the share that is trimmed, alpha the scale
    "long to short, 7B": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: ties
        base_model: {base}
        parameters: {{weight: 1.0, density: 0.2, lambda: 1.0}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "long to short, 32B": """
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: ties
        base_model: {base}
        parameters: {{weight: 1.0, density: 0.75, lambda: 0.55}}
        dtype: float32
        out_dtype: bfloat16
        """,
    # github.com/StarDewXXX/AdaR1: long 0.8, short 0.2
    "AdaR1": """
        models:
          - {{model: {chat}, parameters: {{weight: 0.8}}}}
          - {{model: {sea}, parameters: {{weight: 0.2}}}}
        merge_method: linear
        dtype: float32
        out_dtype: bfloat16
        """,
}
