"""Mutation check: each one-line defect below, applied to a copy of the package, must make the tests beside it fail.

    python tests/mutations.py                 all of them
    python tests/mutations.py NAME NAME ...   only these

Prints a table and exits 1 where a defect survives. The working tree is left alone.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "methods/base.py"
METHODS = "test_methods.py"
STORED, MADE_BY = (
    "test_store.py::test_",
    "test_runs.py::test_the_commit_is_that_of_the_checkout_the_package_is_part_of",
)
RULES, IDENTITY = "test_owncode.py::test_", "test_identity.py::test_"
EDIT, DEFAULT = (
    RULES + "an_edit_of_anything_a_rule_uses_is_another_rule",
    IDENTITY + "a_changed_default_gets",
)
DEFAULT += "_a_new_id_and_old_records_keep_theirs"
SCRIPT = "test_training.py::test_twenty_steps_equal_a_plain_torch_script"
RECORDED = "test_training.py::test_a_recorded_step_hears_all_that_changes_between_steps"
COMPANY = "test_training.py::test_a_member_equals_its_solo_run_in_any_order_and_company"
PHASES = "test_company.py::test_members_in_different_phases_are_as_they_are_alone"
SIDE = "test_training.py::test_members_side_by_side_run_at_once_but_for_the_step_that_compiles"

MUTATIONS = {  # name: (file in faeval_core, old text, new text, tests of which one has to fail)
    "credit-sign": ("methods/local.py", '            + self.pu', '            - self.pu', METHODS),
    "credit-level": (BASE, "return credit[1:] if", "return credit[:-1] if", METHODS),
    "no-batch-mean": ("methods/local.py", "self.heard(credit)]) / batch", "self.heard(credit)])", METHODS),
    "no-detach": ("methods/passes.py", "hs.append(h.detach() if local else h)", "hs.append(h)", METHODS),
    "rms-axes": ("methods/tensors.py", 'if how == "batch_rms" else rms(a)', 'if how != "batch_rms" else rms(a)', METHODS),
    "penalty-mean-sum": ("methods/passes.py", 'cfg.penalty_reduction == "mean"', 'cfg.penalty_reduction == "sum"', METHODS),
    "exact-embedding": ("methods/local.py", "fixed, hs, y, 0).detach()", "fixed, hs, y, 1).detach()", METHODS),
    "error-sign": ("models/base.py", 'ts, -1) -', 'ts, -1) +', METHODS),
    "fa-transposed": ("methods/fa.py", 's["feedback"][l] if', 's["feedback"][l].T if', METHODS),
    "fa-level": ("methods/fa.py", "hs[l], a[-1])", "hs[l], a[0])", METHODS),
    "dfa-scale": ("methods/dfa.py", "/ classes**0.5", "/ classes", "test_training.py::test_initial_weights_are_torchs_defaults"),
    "frozen-thaws": ("methods/bp.py", 'and not name.startswith("blocks.")', "", METHODS),
    "schedule": ("training/ensemble.py", "math.pi * self.epoch / cfg.epochs", "math.pi * (self.epoch + 1) / cfg.epochs", SCRIPT),
    "shared-batches": ("training/members.py", "pixels.draws(c.seed,", "pixels.draws(cfg.seed,", COMPANY),
    "shared-lr": ("training/ensemble.py", "= c.lr * rate", "= cfg.lr * rate", COMPANY),
    "rate-recorded": ("training/optimizer.py", "rate = self.lr[m] if group.lr == 1", "rate = self.lr[m].item() if group.lr == 1", RECORDED),
    "recorded-for-good": ("training/ensemble.py", "if self.steps_of != (steps_of :=", "if None is self.steps_of != (steps_of :=", RECORDED),
    "flip-dropped": ("training/members.py", "take[3] if cfg.augment else None", "None", SCRIPT),
    "no-momentum": ("training/optimizer.py", "momentum=cfg.momentum, **rest", "momentum=0.0, **rest", SCRIPT),
    "no-decay": ("training/optimizer.py", '"weight_decay": group.weight_decay, "maximize"', '"weight_decay": 0.0, "maximize"', SCRIPT),
    "strided-mean": ("training/loop.py", "losses[:, m].contiguous().mean()", "losses[:, m].mean()", "test_runs.py"),
    "optimizer-lost": ("training/optimizer.py", '}": v[m]', '}": v[m].clone()', "test_runs.py"),
    "overflow-unseen": ("training/loop.py", "(~losses[:, m].isfinite())", "(~losses[:0, m].isfinite())", "test_runs.py"),
    "progress-early": ("runs/queue.py", "bar.update(len(group) - len(busy))", "bar.update(len(wanted) - bar.n)", "test_engines.py"),
    "shared-noise": ("training/steps.py", "batch, self.generators[m])", "batch, self.generators[0])", "test_credit.py"),
    "frozen-mean": ("measure/protocol.py", "frozen.get(r.config.seed, mean)", "mean",
                    "test_protocol.py::test_depth_is_judged_against_the_frozen_net_of_the_same_seed"),
    "mixed-checkpoints": ("runs/worker.py", "if all(kept) and len(begun) == 1 and max(begun) <= min(missing, default=self.epochs):", "if kept := [k for k in kept if k]:", "test_runs.py"),
    "upstream-dropped": ("runs/worker.py", "[start_weights(c, store) for c in configs]", "None", "test_runs.py"),
    "crop-swapped": ("data/pixels.py", "dy * down + dx * right", "dx * down + dy * right", "test_data.py"),
    "flip-vertical": ("data/pixels.py", "x.flip(-1)", "x.flip(-2)", "test_data.py"),
    "seventh-crop": ("data/pixels.py", "torch.randint(0, 2 * PADDING + 1,", "torch.randint(0, 2 * PADDING,", "test_data.py"),
    "cosine-clamped": ("measure/cosines.py", '    # squares of 1e-200 would underflow even here\n    u, v = (w / w.abs().amax(-1, keepdim=True) for w in (u.double(), v.double()))',
                       '    return cosine_clamped(u.double(), v.double())  # squares of 1e-200 would underflow even here', "test_diagnostics.py"),
    "pearson-centre": ("measure/loss_changes.py", "told - told.mean(0)", "told", "test_diagnostics.py"),
    "gamma-level": ("measure/diagnostics.py", '    # `block`: what trains block l against g_l\n    same, block = list(zip(a, gs)), list(zip(method.heard(a), gs))', '    same, block = list(zip(a, gs)), list(zip(a, gs))  # `block`: what trains block l against g_l', "test_diagnostics.py"),
    "norm-of-batch": ("measure/diagnostics.py", "vectors(t).double().norm(dim=-1)", "vectors(t).double().norm(dim=0)", "test_diagnostics.py"),
    "nudge-sign": ("measure/loss_changes.py", "h - eta * step", "h + eta * step", "test_diagnostics.py"),
    "stability-level": ("measure/diagnostics.py", "method.model.depth // 2]", "method.model.depth]", "test_diagnostics.py"),
    "checksum": ("runs/record.py", 'if checksum_of(told) != raw["checksum"]:', "if False:", "test_store.py"),
    "digest": ("runs/tensor_files.py", 'if _digest(tensors) != meta["digest"]:', "if False:", "test_store.py"),
    "nan-in-json": ("ground/files.py", "allow_nan=False", "allow_nan=True", "test_store.py"),
    "torn-write": ("ground/files.py", "os.replace(temporary, path)", "path.write_bytes(Path(temporary).read_bytes())", "test_store.py"),
    "stale-average": ("methods/cb.py", 'torch.lerp(p[k].detach(), v, s["ema"])', "v.clone()", "test_credit.py"),
    "soft-minimum": ("methods/cb.py", " - math.log(copies)", "", "test_credit.py"),
    "half-difference": ("methods/finite_differences.py", "(1 if one_sided else 2)))", "1))", "test_credit.py"),
    "ep-sign": ("methods/ep.py", "[-r / b for r", "[r / b for r", "test_credit.py"),
    "blend-weight": ("methods/learned.py", "(1 - w) * dfa", "dfa", "test_credit.py"),
    "last-blocks": ("methods/learned.py", '(cfg.credit_level == "output") - o["last"]', '0 - o["last"]', "test_credit.py"),
    "shared-eta": ("methods/local.py", 's["eta"] * normalise', "self.cfg.eta * normalise", "test_training.py"),
    "kp-unlearned": ("methods/fa.py", '(p[f"aux.{k}"] - p[f"aux.{k}"].detach())', "0", "test_credit.py"),
    "bn-biased": ("models/convnet.py", "* n / (n - 1)", "", "test_models.py"),
    "exploit-clamp": ("measure/exploit.py", "g.clamp(-CLAMP, CLAMP) if clamp else g", "g", "test_exploit.py"),
    "frozen-drifts": ("training/steps.py", "elif self.configs[0].train_net:", "else:", "test_models.py"),
    "compiled-by-all": ("training/ensemble.py", "lock = threading.Lock()", "lock = nullcontext()", SIDE),
    "one-runs-ahead": ("training/side_by_side.py", "waiting.put((done + 1, m))", "waiting.put((0, m))", SIDE),
    "counted-for-all": ("training/optimizer.py", "self.steps[m] += moving", "self.steps += moving", COMPANY),
    "clip-amplifies": ("training/optimizer.py", ".clamp(max=1)", "", SCRIPT),
    "lead-sign": ("report/tables.py", "pair[0] - pair[1]", "pair[1] - pair[0]",
                  "test_protocol.py::test_a_learned_credit_is_read_beside_dfas_on_the_same_net"),
    "lock-for-all": ("runs/tensor_files.py", "yield held.is_locked", "yield True", "test_cli.py"),
    "ep-frontier": ("methods/ep.py", "max(0, top - step)", "max(0, top - step + 1)", "test_credit.py"),
    "bf16-ignored": ("training/gradients.py", "if self.onednn else gradient", "if False else gradient", "test_training.py"),
    "uneven-shares": ("runs/plan.py", "int(share / costs[group[0]])", "int(2 * share / costs[group[0]])", "test_engines.py"),
    "sd-of-n": ("measure/stats.py", "v.std(ddof=1)", "v.std(ddof=0)",
                "test_protocol.py::test_intervals_are_students_and_sd_has_n_minus_one"),
    "minority-verdict": ("measure/protocol.py", "2 * self.counts[k][0] >", "3 * self.counts[k][0] >",
                         "test_protocol.py::test_a_verdict_is_the_majority_of_the_seeds_in_which_it_is_defined"),
    "open-scheduler": ("runs/engines.py", 'protocol="tls://", security=_secured(), **pages', 'protocol="tcp://", **pages',
                       "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "open-pages": ("runs/engines.py", 'options | {"dashboard": False, "dashboard_address": "127.0.0.1:0"}', "options",
                   "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "readable-key": ("runs/engines.py", "os.O_EXCL, 0o600)", "os.O_EXCL, 0o644)",
                     "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "orphans": ("runs/processes.py", "    multiprocessing.parent_process().join()", "    threading.Event().wait()",
                "test_engines.py::test_workers_end_with_their_parent"),
    "workers-go-on": ("runs/processes.py", "                process.kill()", "                pass",
                      "test_engines.py::test_an_interrupt_ends_workers_and_drops_what_is_queued"),
    "lost-for-good": ("runs/engines.py", "return killed or isinstance(error, BrokenExecutor)", "return killed",
                      "test_engines.py::test_a_broken_pool_does_not_bring_its_runs_here"),
    "endless-wait": ("ground/environment.py", "if not 0 <= seconds < math.inf:", "if not 0 <= seconds:",
                     "test_environment.py::test_seconds_to_wait"),
    "switch-unread": ("ground/environment.py", "return SWITCHES.get(text, True)", 'return text != "0"', "test_environment.py"),
    "threads-unread": ("ground/environment.py", r"[1-9]\d*(\s*", r"\w+(\s*", "test_environment.py"),
    "lock-litter": ("runs/tensor_files.py", "                    path.unlink()", "                    pass", "test_files.py"),
    "errors-unnamed": ("ground/files.py", "        raise explained(e, path) from e\n    return path", "        raise\n    return path",
                       "test_files.py"),
    "kernel-left": ("report/kernels.py", "            process.kill()\n            process.wait()", "            pass",
                    "test_pipeline.py::test_an_interrupt_leaves_no_kernel"),
    "values-unchecked": ("report/parameters.py", "                check_value(name, value)", "                pass",
                         "test_pipeline.py::test_mistakes_are_found_before_launch"),
    "prints-apart": ("report/outputs.py", '.rpartition("\\r")[2]', "", "test_pipeline.py::test_prints_of_a_cell_become_one"),
    "page-unchecked": ("report/audit.py", "        check_writable(html)", "        pass",
                       "test_cli.py::test_a_mistake_ends_in_one_line_that_names_the_way_out"),
    "ascii-fails": ("ground/terminal.py", 'stream.reconfigure(errors="faeval")', "pass",
                    "test_cli.py::test_a_terminal_of_ascii_shows_everything"),
    "memory-unnamed": ("runs/worker.py", '  raise MemoryError(\n            f"no memory', '  raise ValueError(\n            f"a fault',
                       "test_cli.py::test_a_net_too_large_for_any_memory_ends_in_one_line"),
    "name-unchecked": ("data/datasets.py", "or not NAME.fullmatch(name)", "or not name",
                       "test_images.py::test_a_name_that_is_none_is_refused_and_writes_nothing"),
    "synthetic-name-taken": ("data/datasets.py", "name in BUILT_IN or synthetic.is_synthetic(name)", "name in BUILT_IN",
                             "test_images.py::test_a_name_that_is_none_is_refused_and_writes_nothing"),
    "wide-clipped": ("data/images.py", "(values >> 8)", "values.clip(0, 255)",
                     "test_images.py::test_16_bits_of_grey_are_scaled_to_the_full_range"),
    "floats-unscaled": ("data/images.py", "np.rint(values * 255)", "np.rint(values)",
                        "test_images.py::test_floats_are_read_in_0_to_1_and_refused_elsewhere"),
    "grey-tripled": ("data/images.py", 'return image.convert("L" if mode', 'return image.convert("RGB" if mode',
                     "test_images.py::test_a_greyscale_set_keeps_its_one_channel"),
    "alpha-unsaid": ("data/images.py", 'done.counts["alpha"] += image', 'done.counts["opaque"] += image',
                     "test_images.py::test_what_is_converted_is_counted_by_kind_in_one_line"),
    "flat-channel": ("data/images.py", "if sd == 0:", "if False:",
                     "test_images.py::test_a_channel_without_spread_is_refused_by_name"),
    "any-format": ("data/images.py", "formats=FORMATS)", "formats=None)",
                   "test_images.py::test_postscript_under_an_images_name_never_reaches_ghostscript"),
    "pillow-escapes": ("data/images.py", "except Exception as e:", "except OSError as e:",
                       "test_images.py::test_whatever_pillow_raises_the_file_is_named"),
    "second-tree": ("data/trees.py", "return [p for p in long if p[:depth] == root and p[depth] in names]",
                    "return [p for p in long if p[-3] in names]",
                    "test_images.py::test_a_second_tree_below_the_first_is_left_out_and_said"),
    "test-not-first": ("data/trees.py", 'TESTS = ("test", "validation", "val")', 'TESTS = ("val", "validation", "test")',
                       "test_images.py::test_validation_images_stand_in_for_test_images"),
    "links-unfollowed": ("data/trees.py", "        if entry.is_dir():", "        if entry.is_dir(follow_symlinks=False):",
                         "test_images.py::test_links_to_folders_are_followed_and_said"),
    "cut-unseen": ("data/trees.py", "if len(mark) < 2 * tarfile.BLOCKSIZE or any(mark):", "if any(mark):",
                   "test_images.py::test_a_cut_archive_is_refused"),
    "header-unseen": ("data/trees.py", "        _check_end(archive)", "        pass",
                      "test_images.py::test_a_damaged_header_is_not_taken_for_the_end"),
    "checksum-unread": ("data/trees.py", "while rest := archive", "while rest := b'' and archive",
                        "test_images.py::test_a_cut_archive_is_refused"),
    "all-is-read": ("data/trees.py", "for path in sorted(wanted))", "for path in sorted(found.files))",
                    "test_images.py::test_large_files_beside_the_images_are_not_read"),
    "few-registered": ("data/registration.py", "if min(train, test) < BATCH:", "if train < BATCH:",
                       "test_images.py::test_too_few_images_are_refused_before_any_is_decoded"),
    "nan-constants": ("data/registration.py", "if not least <= v <= 1:", "if v < least or v > 1:",
                      "test_images.py::test_constants_outside_of_0_to_1_are_refused"),
    "diagnosis-retrained": ("runs/worker.py", "store.load_tensors(store.checkpoint_path(c)) or _with_another_diagnosis(c, store)", "store.load_tensors(store.checkpoint_path(c))",
                            "test_owncode.py::test_a_mended_diagnosis_of_ones_own_rule_costs_no_training"),
    "diagnoses-mixed": ("runs/worker.py", ' and not meta["progress"]["diagnostics"]', "",
                        "test_owncode.py::test_a_mended_diagnosis_of_ones_own_rule_costs_no_training"),
    "credit-left-out": ("runs/worker.py", 'frozenset({"measured"})', 'frozenset({"measured", "credit"})',
                        "test_owncode.py::test_a_mended_diagnosis_of_ones_own_rule_costs_no_training"),
    "cell-unread": ("owncode/digests.py", 'cls.__module__.partition(".")[0] != "faeval_core"', 'cls.__module__.partition(".")[0] not in ("faeval_core", "__main__")', "test_owncode.py::test_a_cell_that_is_edited_in_a_kernel_gives_the_record_of_what_it_says"),
    "commit-untold": ("runs/provenance.py", "        **checkout(),", '        "commit": None, "clean": None,', "test_runs.py::test_a_record_tells_the_code_and_the_machine_that_made_it"),
    "read-only-fails": ("runs/tensor_files.py", "        except OSError:\n            return None\n", "        except TimeoutError:\n            return None\n",
                        "test_cli.py::test_status_of_a_store_that_is_read_only_here"),
    "pipe-unheard": ("__main__.py", "        except BrokenPipeError:", "        except BlockingIOError:", "test_cli.py::test_nobody_reads_on"),
    "closed-stream": ("ground/terminal.py", "        if stream is None:", "        if stream is codecs:", "test_cli.py::test_closed_streams_are_no_fault"),
    "any-device": ("training/device.py", 'found.type not in ("cpu", "cuda")', 'found.type == "meta"', "test_identity.py::test_a_device_is_cpu_or_cuda"),
    "credit-nan": ("preflight/credit.py", "        if not a.isfinite().all():", "        if a.isposinf().any():", "test_preflight.py::test_credit_that_is_no_credit_is_refused_by_level"),
    "credit-of-numpy": ("preflight/credit.py", "        if not isinstance(a, torch.Tensor):", "        if a is None:", "test_preflight.py::test_credit_that_is_no_credit_is_refused_by_level"),
    "credit-drawn-anew": ("preflight/credit.py", "        if not torch.equal(a, b):", "        if a.shape != b.shape:", "test_preflight.py::test_credit_that_is_another_each_time_is_refused"),
    "sign-untold": ("preflight/steps.py", "        if value is not None and value < UPHILL_AT_A_LEVEL\n", "        if value is None\n", "test_preflight.py::test_credit_of_the_wrong_sign_is_told"),
    "deep-record": ("ground/files.py", "    RecursionError,\n", "", "test_store.py"),
    "half-a-file": ("ground/files.py", "with open(temporary, \"wb\") as f:", "with open(temporary := path, \"wb\") as f:",
                    "test_images.py::test_a_fault_while_writing_names_path_and_way_out_and_leaves_the_old_copy"),
    "test-scaled-apart": ("data/arrays.py", "mean, std = train.mean(0), train.std(0)", "mean, std = test.mean(0), test.std(0)",
                          "test_data.py::test_features_are_standardised_by_the_training_rows"),
    "flat-feature": ("data/arrays.py", "constant = train.min(0) == train.max(0)", "constant = train.std(0) == 0",
                     "test_data.py::test_features_are_standardised_by_the_training_rows"),
    "list-unchecked": ("ground/files.py", "if not isinstance(found.get(k), list)]", "if k not in found]",
                       "test_data.py::test_a_summary_without_one_of_its_lists_is_named_by_who_needs_it"),
    "conflict-unnamed": ("ground/files.py", "except (ValueError, RecursionError) as e:", "except RecursionError as e:",
                         "test_data.py::test_a_damaged_committed_file_is_named_with_the_way_out"),
    "holm-alone": ("measure/stats.py", "level = alpha / left if going else level", "level = alpha",
                   "test_protocol.py::test_claims_are_decided_together_by_holm"),
    "smallest-ignored": ("measure/stats.py", '"holds" if low > at + self.smallest else "in sign only"', '"holds"',
                         "test_protocol.py::test_a_claim_is_decided_by_its_interval_and_the_smallest_effect_of_interest"),
    "claims-after": ("report/study.py", "if claims != self.told:", "if False:",
                     "test_protocol.py::test_what_is_printed_is_what_is_noted"),
    "one-net-unsaid": ("measure/stats.py", 'if self.of else f"n=', 'if False else f"n=',
                       "test_protocol.py::test_what_is_printed_is_what_is_noted"),
    "imprecise-agrees": ("report/reference.py", '"imprecise" if 2 * own > room else "agrees"', '"agrees"',
                         "test_protocol.py::test_what_counts_as_reproduced"),
    "norms-linear": ("report/reference.py", "mine, theirs = math.log10(mine), math.log10(theirs)", "pass",
                     "test_protocol.py::test_the_four_answers_are_apart_by_their_definition"),
    "zeros-differ": ("report/reference.py", "given = abs(mine - theirs) <= within", "given = False",
                     "test_protocol.py::test_what_counts_as_reproduced"),
    "calibrated-counted": ("report/reference.py", "(rows[~rows.calibrated], rows[rows.calibrated])", "(rows, rows[rows.calibrated])",
                           "test_protocol.py::test_every_reference_row_is_kept_and_a_misnamed_one_refused"),
    "macros-collide": ("report/latex.py", "for name, _ in made).items() if n > 1)", "for name, _ in made).items() if n > 2)",
                       "test_protocol.py::test_macros_of_two_notebooks_are_apart_and_a_collision_is_an_error"),
    "latex-command": ("report/escapes.py", 'PES |= {\n    "\\\\": r"\\textbackslash{}",\n    "^": r"\\textasciicircum{}",\n    "~": r"\\textasciitilde{}",\n    "‖": r"\\(\\|\\)",\n', 'PES |= {"^": r"\\textasciicircum{}", "~": r"\\textasciitilde{}", "‖": r"\\(\\|\\)"',
                      "test_protocol.py::test_no_text_is_a_command_to_latex"),
    "nothing-rescaled": ("measure/protocol.py", "if not rescaling_took(diagnosis):", "if False:",
                         "test_audit.py::test_b_is_undefined_where_the_stream_cannot_be_rescaled"),
    "random-fires": ("measure/diagnostics.py", '"repeatable": alike(*asked)', '"repeatable": True',
                     "test_audit.py::test_random_credit_does_not_fire_b"),
    "feedback-left": ("models/base.py", 'writes.match(f"{k}.")', "writes.match(k)",
                      "test_audit.py::test_a_valid_exact_gradient_never_fires_b"),
    "pretender": ("measure/diagnostics.py", "part_cosine(free, part, made)", "part_cosine(free, part, free)",
                  "test_audit.py::test_an_audit_tells_credit_that_was_shown_from_credit_that_trained"),
    "phase-of-the-first": ("training/ensemble.py", "self.method.phase_of(c, self.epoch) for c", "self.method.phase_of(cfg, self.epoch) for c",
                           PHASES),
    "mirror-unasked": ("methods/local.py", "Phase(fits=type(self).auxiliary is not LocalMethod.auxiliary)", "Phase(fits=False)",
                       "test_company.py::test_a_rule_without_trained_parameters_learns_by_what_it_changes"),
    "whole-options-lost": ("training/initial.py", "for k in method.member_options}",
                           "for k in method.member_options if type(cfg.options[k]) is float}",
                           "test_company.py::test_member_options_of_every_type_reach_the_state"),
    "first-members-config": ("methods/shared.py", "if k not in MEMBER_FIELDS}", "if k}", "test_preflight.py::test_a_field_that_members_may_differ_in_is_not_read_off_the_config"),
    "attributes-thaw": (BASE, "        if self._frozen:", "        if False:",
                        "test_preflight.py::test_an_attribute_set_while_training_is_refused"),
    "edits-unseen": ("preflight/changes.py", "if place := moved(before, held_now()):", "if place := None:",
                     "test_preflight.py::test_what_a_rule_edits_in_place_is_named"),
    "draws-unseen": ("preflight/changes.py", 'found["Python\'s"] = repr(random.getstate()).encode()', "pass",
                     "test_preflight.py::test_a_draw_from_a_global_generator_is_refused"),
    "double-unchecked": ("preflight/steps.py", "    check_levels(method, credit, hs, when)", "    pass",
                         "test_preflight.py::test_credit_that_would_fail_at_the_last_diagnosis_is_refused_before_training"),
    "diagnosis-costs-all": ("runs/worker.py", "(due or not all(measured))", "due",
                            "test_runs.py::test_a_diagnosis_that_fails_costs_nothing_that_was_trained"),
    "record-costs-all": ("runs/worker.py", "self.checkpoint(c, result, self.ensemble.export(m))", "pass",
                         "test_runs.py::test_a_record_that_cannot_be_written_costs_nothing_that_was_trained"),
    "upstream-to-its-end": ("runs/worker.py", "self.last, self.wanted = max(wanted, default=self.epochs),", "self.last, self.wanted = self.epochs,", "test_runs.py::test_an_upstream_that_is_also_asked_for_trains_once"),
    "exploited-as-trained": ("methods/base.py", "    vars(cfg).update(changes)", "    pass", "test_exploit.py::test_what_is_exploited_is_the_rule_itself_under_another_update"),
    "batched-or-not-at-all": ("training/steps.py", '     except Exception as e:\n                # ', '     except OSError as e:  # ',
                              "test_training.py::test_every_rule_that_trains_in_turn_trains_on_every_path"),
    "rule-globals": ("owncode/digests.py", "yield from self.globals_(f)", "pass", EDIT),
    "rule-parents": ("owncode/digests.py", "for base in cls.__mro__:", "for base in cls.__mro__[:1]:", EDIT),
    "rule-closures": ("owncode/digests.py", "zip(f.__code__.co_freevars, f.__closure__ or ())", "()", EDIT),
    "rule-layout": ("owncode/outlines.py", "return isinstance(node, ast.Pass) or (", "return isinstance(node, ast.Pass) and (",
                     RULES + "comments_layout_docstrings_and_annotations_are_no_other_rule"),
    "rule-file-edited": ("owncode/outlines.py", "if found and code in known else None", "if found else None",
                     RULES + "a_file_edited_under_the_code_in_memory_does_not_speak_for_it"),
    "rule-unnamed": ("config.py", 'object.__setattr__(self, "code", self.code_now())', 'object.__setattr__(self, "code", "")',
                     "test_owncode.py::test_an_edited_rule_trains_and_each_has_its_record"),
    "rule-changed-since": ("runs/queue.py", "        if c.code:", "        if False:",
                           "test_owncode.py::test_a_config_of_a_rule_that_has_changed_is_refused"),
    "worker-knows-better": ("runs/parcel.py", "METHODS.update(zip(self.methods, classes))",
                            "METHODS.update(zip(self.methods, classes) if False else ())",
                            RULES + "a_module_that_has_changed_since_the_worker_imported_it_is_sent_anew"),
    "worker-unverified": ("runs/parcel.py", "for c, sent in zip(self.configs, self.ids):", "for c, sent in ():",
                     RULES + "a_worker_with_another_rule_says_so"),
    "old-record-taken": ("runs/record_files.py", "if self._vouched(old) == cfg.code else path", "if True else path",
                     RULES + "an_older_record_counts_for_the_rule_that_is_vouched_for_and_no_other"),
    "id-of-defaults": ("config.py", 'identity.FIELDS | {"model_options": {}',
                       '{f.name: f.default for f in fields(self)} | {"model_options": {}', DEFAULT),
    "id-of-options": ("config.py", "known = identity.OPTIONS.get(self.method, {} if self.code else method.options)",
                      "known = method.options", DEFAULT.replace("default", "option")),
    "record-filled-in": ("config.py", "full = {**identity.FIELDS, ", "full = {", DEFAULT),
    "minus-zero": ("ground/checks.py", '    # -0.0 is 0.0, as equal configs have equal ids\n    return abs(value) if kind is float and value == 0 else value', '    return value  # -0.0 is 0.0, as equal configs have equal ids',
                     IDENTITY + "zero_has_one_sign"),
    "options-change": ("settings/values.py", "__setitem__ = __delitem__ = __ior__", "__delitem__ = __ior__",
                     IDENTITY + "options_behave_as_a_dict_that_cannot_be_changed"),
    "numpy-refused": ("ground/checks.py", "(v.item() if isinstance(v, np.generic) else v for v in (value, default))", "(value, default)",
                      IDENTITY + "numbers_of_numpy_are_numbers"),
    "half-an-epoch": ("settings/values.py", "if wrong := [e for e in epochs if type(e) is not int]:", "if wrong := []:",
                     IDENTITY + "a_value_of_a_wrong_kind_is_named_with_the_way_out"),
    "seed-twice": ("report/study.py", "if not found or len(set(found)) < len(found):", "if not found:",
                     IDENTITY + "seeds_are_whole_numbers_each_of_them_once"),
    "run-twice": ("runs/queue.py", "if times > 1:", "if times > 2:", IDENTITY + "run_names_what_it_cannot_run"),
    "record-replaced": ("runs/record_files.py", "            self._read(path, record.config)", "            pass",
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "newer-is-damaged": ("runs/record.py", '  raise RecordRefused(\n                f"this version of faeval does not understand its config ({e})"\n            ', '  raise ValueError(f"this version of faeval does not understand its config ({e})"',
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "other-images": ("runs/record_files.py", "if made_on and here and made_on != here:", "if False:",
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "left-out-silently": ("runs/store.py", "        if left:", "        if not left:",
                     STORED + "a_damaged_record_is_recomputed_with_a_warning"),
    "header-unread": ("runs/tensor_files.py", 'if checksum_of(told) != meta.get("header"):', "if False:", "test_store.py::test_no_bit_of_a_checkpoint_flips_unseen"),
    "snapshot-read-again": ("runs/tensor_files.py", "_stamp(path) in _WHOLE or ", "",
                     STORED + "images_are_hashed_once_and_so_is_a_snapshot_that_is_asked_for"),
    "images-hashed-again": ("data/datasets.py", "    @cached_property", "    @property",
                     STORED + "images_are_hashed_once_and_so_is_a_snapshot_that_is_asked_for"),
    "hook-names-the-tree": ("runs/provenance.py", 'if not k.startswith("GIT_")', "if k", MADE_BY),
    "commit-of-others": ("runs/provenance.py", "if tracked is None or _read() != LOADED:", "if tracked is None:", MADE_BY),
    "rate-off-by-a-millionth": ("training/ensemble.py", "= c.lr * rate", "= c.lr * rate * (1 + 1e-6)", SCRIPT),
    "credit-off-by-a-millionth": ("methods/local.py", "return sum(inner(f, a) for f, a in pairs)",
                                  "return (1 + 1e-6) * sum(inner(f, a) for f, a in pairs)", METHODS),
    "blend-off-by-a-millionth": ("methods/learned.py", "torch.where(w > 0, w * aux, 0.0)",
                                 "torch.where(w > 0, (w + 1e-6) * aux, 0.0)",
                                 "test_credit.py::test_credit_is_the_blend_of_its_parts"),
    "average-off-by-a-millionth": ("methods/cb.py", 's["ema"])', 's["ema"] * (1 - 1e-6))',
                                   "test_credit.py::test_credit_bridge_average_follows"),
    "image-off-by-a-millionth": ("data/pixels.py", "self.scale, self.shift = 1 / (255 * std)",
                                 "self.scale, self.shift = (1 + 1e-6) / (255 * std)",
                                 "test_data.py::test_every_crop_and_flip_is_torchvisions"),
    "draws-by-default-type": ("data/pixels.py", "generator=g, dtype=torch.float32) < 0.5", "generator=g) < 0.5",
                              "test_data.py::test_draws_depend_on_seed_and_epoch_alone"),
    "run-in-float64": ("runs/worker.py", "if (default := torch.get_default_dtype()) != torch.float32:", "if False:",
                       "test_runs.py::test_runs_are_refused_where_torch_makes_float64"),
    "datasets-unlocked": ("runs/store.py", '        # else two processes that note new datasets at once would lose one of them\n        with self.lock("datasets"):', '        if True:  # else two processes that note new datasets at once would lose one of them',
                          "test_store.py::test_datasets_that_are_new_at_the_same_time_are_all_noted"),
    "help-waits-for-torch": ("__main__.py", "from .ground.extras import way_out", "from . import runs\nfrom .ground.extras import way_out", "test_package.py::test_the_command_line_waits_for_nothing_before_a_command_is_named"),
    "pandas-for-all": ("runs/tensor_files.py", "from filelock import FileLock, Timeout", "import pandas\nfrom filelock import FileLock, Timeout",
                       "test_package.py::test_importing_the_package_imports_none_of_what_only_some_need"),
    "table-left-behind": ("report/reference.py", 'Path(__file__).with_name("reference_results.csv")',
                          'Path(__file__).parent.with_name("reference_results.csv")',
                          "test_package.py::test_a_wheel_audits_a_rule_elsewhere_with_the_audit_extra_alone"),
    "images-for-an-audit": ("data/datasets.py", "    from sklearn.datasets import load_digits", "    import torchvision\n    from sklearn.datasets import load_digits",
                            "test_package.py::test_a_wheel_audits_a_rule_elsewhere_with_the_audit_extra_alone"),
    "extra-misnamed": ("ground/extras.py", '"pandas", "scipy"', '"pandas", "PIL"', "test_package.py::test_what_a_function_imports_is_brought_by_the_extra_that_its_error_names"),
    "kernel-after-the-end": ("report/kernels.py", '            raise RuntimeError("interrupted")', "            pass",
                             "test_pipeline.py::test_no_kernel_starts_after_an_interrupt"),
    "fork-in-plain-text": ("report/kernels.py", "spec.metadata = spec.metadata | ", "spec.metadata = ",
                           "test_pipeline.py::test_forked_kernels_share_imports_and_nothing_else"),
    "fork-of-this-session": ("report/kernels.py", "    os.setsid()\n", "",
                             "test_pipeline.py::test_forked_kernels_share_imports_and_nothing_else"),
    "rows-as-they-ended": ("report/pipeline.py", "return [rows[i] for i in range(len(plan))]", "return [rows[i] for i in order]",
                           "test_pipeline.py::test_smoke_notebooks_run_side_by_side_and_keep_their_order"),
    "training-side-by-side": ("report/pipeline.py", 'if profile != "smoke" and trains:', "if False:",
                              "test_pipeline.py::test_training_at_the_studys_sizes_has_the_machine_to_itself"),
    "time-gone": ("report/progress.py", "for name in [*self.begun, *self.ended]) / 2", "for name in self.ended)",
                  "test_pipeline.py::test_time_left_goes_by_what_has_ended_and_half_of_what_runs"),
    "seeds-worth-alike": ("runs/backlog.py", "1 / (1 + known[s])", "1", "test_backlog.py"),
    "start-for-nothing": ("runs/backlog.py", "return costs.cost_flops(upstream) * epoch / upstream.epochs", "return 0.0", "test_backlog.py"),
    "start-paid-twice": ("runs/backlog.py", "started.add((best.config.upstream, best.config.upstream_epoch))", "pass", "test_backlog.py"),
    "hours-overrun": ("runs/backlog.py", "total <= limit for", "total - seconds[0] <= limit for", "test_backlog.py"),
    "bf16-anyhow": ("runs/worker.py", "(times := bf16_slowdown()) > 1", "(times := bf16_slowdown()) > 20", "test_runs.py::test_a_long_run_in_bfloat16_is_refused_where_float32_is_faster"),
    "sets-walked-through": ("owncode/digests.py", "walk.stack, walk.done, walk.sets = [], {}, (*self.sets, id(container))", "walk.stack, walk.sets = [], (*self.sets, id(container))", "test_owncode.py::test_functions_of_a_set_are_told_alike_in_any_order"),
    "looked-up-untold": ("owncode/digests.py", "yield from self.named(own_entries(value))", "pass", RULES + "a_rule_that_looks_another_up_is_told_by_it_and_takes_it_along"),
    "looked-up-left-behind": ("owncode/packing.py", "_at(*where).update(values)", "pass", RULES + "a_rule_that_looks_another_up_is_told_by_it_and_takes_it_along"),
    "globals-that-move": ("preflight/declared.py", "if cfg.code != cfg.code_now():", "if False:", "test_preflight.py::test_a_rule_that_changes_what_it_reads_is_refused"),
    "square-feedback": ("methods/fa.py", "tuple(level) == (d,)", "len(level) == 1", "test_register_model.py"),
    "rounded-on-the-way": ("runs/worker.py", "rounded(v) if k in SCIENCE else v", "rounded(v)", "test_runs.py::test_an_interrupted_ensemble_continues_to_the_same_records"),
    "moves-all-notebooks": ("report/pipeline.py", 'resources={"metadata": {"path": str(path.parent)}},\n            kernel_name="python3",', 'cwd=str(path.parent),\n            kernel_name="python3",', "test_pipeline.py::test_smoke_notebooks_run_side_by_side_and_keep_their_order"),
    "slow-records": ("runs/costs.py", "return max(rates) *", "return min(rates) *", "test_costs.py"),
    "bottom-for-top": ("measure/protocol.py", 'measured["b"][-1] if', 'measured["b"][0] if',
                       "test_measured.py::test_each_letter_fires_beyond_its_threshold_or_says_what_it_lacks"),
    "reason-lost": ("measure/protocol.py", "    return {k: why[k] for k in silent}", "    return {k: why[k] for k in silent[1:]}",
                    "test_measured.py::test_any_columns_may_be_missing"),
    "percent-taken": ("report/cells.py", "if 0 <= value <= 1:", "if 0 <= value <= 100:",
                      "test_measured.py::test_what_no_measurement_can_be_is_named_by_its_place"),
    "column-unnamed": ("report/measured.py", "unused = [c for c in columns if c not in used]", "unused = []",
                       "test_measured.py::test_a_csv_file_and_a_frame_are_read_alike"),
    "foreign-baseline": ("report/measured.py", "known.get(net.seed, mean) if", "mean if",
                         "test_measured.py::test_frozen_rows_are_the_baseline_of_their_seed_or_by_their_mean"),
    "one-cosine-for-all": ("report/measured.py", "elif len(moved[0]) < 2:", "elif False:",
                           "test_measured.py::test_each_letter_fires_beyond_its_threshold_or_says_what_it_lacks"),
    "quantity-for-class": ("data/arrays.py", "and 2 * len(classes) > len(labels)", "and False",
                           "test_data.py::test_a_table_that_cannot_be_taken_is_refused_by_its_place"),
    "model-unchecked": ("preflight/__init__.py", "if not own(MODELS[group[0].model]):", "if False:",
                        "test_register_model.py::test_a_faulty_model_is_named_before_it_trains"),
    "model-displaced": ("models/__init__.py", "if not is_own(MODELS.get(name, cls)):", "if False:",
                        "test_register_model.py::test_what_cannot_be_registered_is_refused"),
    "status-of-strangers": ("cli/commands.py", 'for kind in ("method", "model")', 'for kind in ("method",)',
                            "test_register_model.py::test_the_command_line_takes_a_model_from_a_file"),
    "claim-rows": ("report/latex.py", 'None if c["decided"] == "not run" else next(rows)', "next(rows)",
                   "test_paper.py::test_rows_count_the_claims_with_records"),
    "claim-sign": ("report/latex.py", "ends[::sign]", "ends", "test_paper.py::test_estimates_as_sentences_name_them"),
    "claim-digits": ("report/latex.py", "1 - math.floor", "-math.floor", "test_paper.py::test_a_rounded_estimate_keeps_two_digits_of_half_its_width"),
    "settings-mixed": ("report/latex.py", "if len(kinds) > 1:", "if not kinds:", "test_paper.py::test_settings_are_told_apart_and_exact_credit_is_paired_with_each"),
    "paper-hyphens": ("report/escapes.py", 'return r"\\(-\\)"', 'return "-"', "test_paper.py::test_a_negative_number_has_a_minus_and_a_hyphen_stays"),
    "rows-uncalibrated": ("report/latex.py", "rows.verdict.where(~rows.calibrated |", "rows.verdict.where(rows.calibrated |",
                          "test_paper.py::test_rows_of_the_study_are_counted_once_each"),
    "x-not-given": (BASE, 'given = {"x": x} if hook in', 'given = {} if hook in', "test_hooks.py"),
    "learns-here": ("methods/local.py", "        if self.learns_elsewhere:\n            own_h0", "        if False:\n            own_h0", "test_hooks.py"),
    "credited-here": ("measure/diagnostics.py", 'if getattr(method, "learns_elsewhere", False):', "if False:", "test_hooks.py"),
    "one-rate": ("training/optimizer.py", "self.lr[m] if group.lr == 1 else self.lr[m] * group.lr", "self.lr[m]", "test_hooks.py"),
    "one-decay": ("training/optimizer.py", "(lr, cfg.weight_decay * decay)", "(lr, cfg.weight_decay)", "test_hooks.py"),
    "step-without-rate": ("training/optimizer.py", "v if rates[k] == 1 else v * rates[k]", "v", "test_hooks.py"),
    "predict-unasked": ("training/measurement.py", "return ensemble.method.predict(p, s, x)", "return ensemble.model.logits(p, ensemble.model.embed(p, x)).argmax(-1)", "test_hooks.py"),
    "same-draw": ("measure/diagnostics.py", "x, p, s | drawn, hs", "x, p, s, hs", "test_hooks.py"),
    "idle-untold": ("preflight/steps.py", "if g is None and k.startswith(", "if False and k.startswith(", "test_hooks.py::test_parameters_that_no_term_reaches_are_told"),
    "draws-of-nothing": ("preflight/declared.py", "if method.draws > 1 and not", "if False and not", "test_hooks.py::test_draws_of_nothing_are_refused"),
    "process-left-changed": ("training/execution.py", "torch.set_flush_denormal(flushed)", "pass", "test_training.py::test_training_leaves_the_process_as_it_was"),
    "tf32-left-off": ("training/execution.py", "matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, flushed = before", "*_, flushed = before", "test_training.py::test_training_leaves_the_process_as_it_was"),
    'judged-up-to-its-state': ("measure/judge_levels.py", 'with_first(output, state.clone())  # what', 'with_first(output, state)  # what', 'test_judge.py::test_a_state_is_what_a_level_gives_whatever_edits_it_later'),
    'judged-in-training': ("measure/judge_model.py", '        model.eval()\n', '        model.train(model.training)\n', 'test_judge.py::test_batch_norm_and_dropout_are_judged_in_evaluation_mode'),
    'modes-lost': ("measure/judge_model.py", '            module.training = mode', '            module.training = modes[0][1]', 'test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens'),
    'weights-moved': ("measure/judge_model.py", '        kept.restore()\n', '', 'test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens'),
    'left-in-float64': ("measure/judge_model.py", '            t.data = before', '            t.data = before.double()', 'test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens'),
    'gradients-left': ("measure/judge_model.py", '            p.grad = grad\n', '', 'test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens'),
    'training-credit': ("measure/judge_stack.py", 'if moved := kept.changed():', 'if moved := None:', 'test_judge.py::test_a_credit_that_trains_is_named_with_the_weight'),
    'attached-credit': ("measure/judge_stack.py", '        if a.requires_grad:', '        if False:', 'test_judge.py::test_credit_that_cannot_be_compared_is_named_with_its_level'),
    'zero-credit': ("measure/judge_stack.py", '        if not a.any():', '        if False:', 'test_judge.py::test_credit_that_cannot_be_compared_is_named_with_its_level'),
    'another-function': ("measure/judge_measures.py", 'if not change <= SAME_FUNCTION:', 'if False:', 'test_judge.py::test_the_stream_is_rescaled_where_that_changes_no_function'),
    'growth-of-some': ("measure/judge_measures.py", 'if not no_ratio or protocol.crosses("a", worst) else None', 'if known else None', 'test_judge.py::test_growth_is_undefined_between_levels_of_other_shapes_unless_it_fires_elsewhere'),
    'judged-mean-loss': ("measure/judge_stack.py", 'losses.sum() / BATCH', 'losses.mean()', 'test_judge.py::test_the_figures_are_those_that_diagnose_takes_on_the_same_net'),
    'middle-level': ("measure/judge_measures.py", '(len(stack.tap.names) - 1) // 2', 'len(stack.tap.names) // 2', 'test_judge.py::test_the_figures_are_those_that_diagnose_takes_on_the_same_net'),
    'compiled-unheard': ("measure/judge_model.py", 'set_stance("force_eager")', 'set_stance("default")', 'test_judge.py::test_a_compiled_net_is_judged_as_it_is_before'),
    'nudges-of-parts': ("measure/judge_measures.py", '[len(y) * move for move in', '[move for move in', 'test_judge.py::test_rho_and_nudges_by_parts_are_those_of_the_whole'),
    'copy-at-the-top': ("measure/copies.py", 'diagnosis.get("gamma_copied", ())))[1:-1]', 'diagnosis.get("gamma_copied", ())))[1:]', 'test_protocol.py::test_each_diagnostic_fires_beyond_its_published_threshold'),
    'copy-without-room': ("measure/copies.py", 'self.lead / max(self.room, LEAST_ROOM) if has_room else None', 'self.lead / max(self.room, LEAST_ROOM)', 'test_protocol.py::test_each_diagnostic_fires_beyond_its_published_threshold'),
    'power-unasked': ("measure/protocol.py", 'asked = [k for k in letters if k not in powerless]\n        return', 'asked = list(letters)\n        return', 'test_page.py::test_a_letter_without_power_is_said_to_have_none'),
    'power-of-depth': ("report/findings.py", 'elif lead.low <= THRESHOLDS["d"]:', 'elif lead.mean <= THRESHOLDS["d"]:', 'test_page.py::test_depth_has_no_power_where_bp_does_not_use_it'),
    'two-seeds-settle': ("measure/comparisons.py", 'LEAST_SEEDS = 3 ', 'LEAST_SEEDS = 2 ', 'test_comparisons.py::test_two_seeds_settle_nothing'),
    'test-images-forgotten': ("measure/comparisons.py", 'total = of_seeds + test_variance', 'total = of_seeds', 'test_comparisons.py::test_seeds_that_agree_leave_the_error_of_the_test_set'),
    'each-comparison-alone': ("measure/comparisons.py", 'gap.word(level), p)', 'gap.word(), p)', 'test_comparisons.py::test_comparisons_are_settled_as_one_family'),
    'equal-by-one-side': ("measure/comparisons.py", 'max(not_below, not_above)', 'min(not_below, not_above)', 'test_comparisons.py::test_a_word_is_said_where_its_p_allows_it'),
    'tuned-on-the-test-set': ("report/tuning.py", 'dataset=cfg.dataset + VALIDATION', 'dataset=cfg.dataset', 'test_audit.py::test_a_learning_rate_is_the_best_on_held_out_training_images_of_each'),
    'tuned-by-what-is-reported': ("report/tuning.py", '{*seeds} & {*reported}', '{*seeds} & set()', 'test_audit.py::test_a_seed_does_not_choose_the_rate_at_which_it_is_reported'),
    'diverged-rate-taken': ("report/tuning.py", 'if found and None not in found', 'if found', 'test_audit.py::test_a_rate_is_taken_by_its_mean_and_not_where_a_seed_diverged'),
    'cells-unescaped': ("report/page.py", '{escape(str(cell))}</td>', '{cell}</td>', 'test_page.py::test_nothing_of_the_users_is_a_tag'),
    'shade-turned': ("report/svg.py", 'left, right = (at, x.end) if fires_above', 'left, right = (at, x.end) if not fires_above', 'test_page.py::test_a_value_that_fires_lies_on_the_shaded_side'),
    'gaps-unhatched': ("report/page_charts.py", 'gaps=gaps(audit, key)', 'gaps=()', 'test_page.py::test_undefined_levels_are_hatched_with_their_reason'),
    'split-with-test': ("data/datasets.py", 'held = round(HELD_OUT * len(data.train_y))', 'held = len(data.train_y) // 2', 'test_data.py::test_a_validation_split_is_of_training_images_alone'),
    'bp-unheard': ("report/measured.py", 'for k in judged.fired(protocol.ALL)', 'for k in judged.fired(())', 'test_measured.py::test_a_letter_that_bps_own_rows_fire_has_no_power_over_the_others'),
    'bars-of-nothing': ("report/figures.py", 'label in rows if mean_sd(values.get(label, []))[2]]', 'label in rows]', 'test_protocol.py::test_bars_leave_out_what_has_no_value'),
    'name-of-a-prefix': ("report/figures.py", 're.fullmatch(pattern, label)', 're.match(pattern, label)', 'test_protocol.py::test_a_reader_sees_a_name_in_place_of_a_label'),
    'not-run-in-tables': ("report/reference.py", 'run = rows[rows.verdict != "not run"]', 'run = rows', 'test_protocol.py::test_a_readers_table_holds_what_is_run_with_few_digits'),
    'calibrated-as-test': ("report/reference.py", 'for part in (rows[~rows.calibrated], rows[rows.calibrated])', 'for part in (rows, rows[rows.calibrated])', 'test_protocol.py::test_a_comparison_in_words'),
    'badge-of-one': ("report/readme.py", '"partial" if done > 1 else', '"partial" if done else', 'test_protocol.py::test_a_badge'),
    'claims-not-waiting': ("report/study.py", 'for c in self.claims.values() if not c.found]', 'for c in self.claims.values() if c.found]', 'test_protocol.py::test_a_run_of_several_arms_is_noted_under_all_their_labels'),
}  # fmt: skip


def copied(folder):
    """A copy of what the tests need, in `folder`."""
    for part in ("faeval_core", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):  # what a wheel is built from
        shutil.copy(ROOT / name, folder)
    (folder / "results").mkdir()
    return folder


def text_of(root, name):
    return (root / "faeval_core" / MUTATIONS[name][0]).read_text(encoding="utf-8")


def told(folder):
    """What pytest printed on a copy."""
    return (folder / "log").read_text(encoding="utf-8")


def tests_fail(folder, tests) -> bool:
    """Run tests of a copy in a forked process, which shares this one's imports of torch but not of faeval_core."""
    log = folder / "log"
    pid = os.fork()
    if pid == 0:
        with open(log, "w", encoding="utf-8") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder / "tests")])
        sys.path[:0] = [str(folder), str(folder / "tests")]
        import faeval_core

        assert Path(faeval_core.__file__).is_relative_to(folder)
        os._exit(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)])
        )
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 1):  # 1: tests ran and failed; anything else is no verdict
        sys.exit(f"pytest ended with code {code} on {tests}:\n{told(folder)[-3000:]}")
    return code == 1


def main(names):
    unknown = sorted(set(names) - set(MUTATIONS))
    if unknown:
        sys.exit(f"unknown mutations {unknown} (known: {', '.join(MUTATIONS)})")
    names = names or list(MUTATIONS)
    stale = [n for n in names if text_of(ROOT, n).count(MUTATIONS[n][1]) != 1]
    if stale:
        sys.exit(
            f"the old texts of {stale} no longer occur exactly once; bring MUTATIONS up to date"
        )
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        if tests_fail(
            copied(Path(temporary, "sound").resolve()), sorted({MUTATIONS[n][3] for n in names})
        ):
            sys.exit(
                f"the tests fail without any mutation:\n{told(Path(temporary, 'sound'))[-3000:]}"
            )
        for name in names:
            started = time.perf_counter()
            folder = copied(Path(temporary, name).resolve())
            file, old, new, tests = MUTATIONS[name]
            (folder / "faeval_core" / file).write_text(
                text_of(folder, name).replace(old, new), encoding="utf-8"
            )
            caught = tests_fail(folder, [tests])
            survivors += [] if caught else [name]
            by = [
                line.split(" ")[1]
                for line in told(folder).splitlines()
                if line.startswith("FAILED")
            ]
            shutil.rmtree(folder)
            verdict, seconds = "caught" if caught else "SURVIVED", time.perf_counter() - started
            print(f"{name:20} {verdict:9}{seconds:6.1f} s  {' '.join(by)}", flush=True)
    print(
        f"{len(names) - len(survivors)} of {len(names)} caught"
        + (f"; survived: {', '.join(survivors)}" if survivors else "")
    )
    return bool(survivors)


if __name__ == "__main__":
    import pytest
    import torch._dynamo
    import torchvision  # noqa: F401

    os.environ.setdefault("FAEVAL_TEST_HANG", "60")  # where a defect lets a test wait for good
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
